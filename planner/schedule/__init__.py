"""Pipeline schedules as data: text, named ones, checks, synthesis."""
