"""What is done to whole workflows: submit, the verbs, resume, rollback, needs, archives.

Owns the messages and decisions about workflows. Refuses single jobs: those are the engine's.
"""
