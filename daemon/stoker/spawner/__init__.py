"""The spawner: a small stand-alone service of root that starts the launchers of other users.

Owns the one step that takes privileges: from root to the user of a job. Everything after that is done by that user's
own launcher with that user's rights. One thread, standard library only. Nothing in here may import the rest of Stoker.
"""
