"""One module a task; `proj.task.get(NAME)` imports it. How to add one: docs/new-task.md."""
