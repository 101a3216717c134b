"""What the planner talks about: layouts, programs, plans, schedules."""
