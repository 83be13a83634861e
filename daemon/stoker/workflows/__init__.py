"""Operations on whole workflows: submit, the verbs, resume, rollback, needs, archives.

Owns the messages about workflows and their decisions; the engine decides about single jobs.
"""
