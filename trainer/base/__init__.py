"""What every room stands on: the recipe and the stages' settings, files that are whole or not there, locks, failures
in one line, processes and the device. It hands on plain functions and dataclasses, and imports no other room."""
