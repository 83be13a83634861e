"""Submits the jobs and workflows of schedules at their times.

core/schedule decides what is due; here it is submitted, in the turn that settles the slot.
"""
