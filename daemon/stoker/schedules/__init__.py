"""Submits the jobs and workflows of schedules at their times.

core/schedule decides which slots are due; this package submits them, in the turn that settles the slot.
"""
