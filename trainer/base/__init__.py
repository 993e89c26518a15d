"""Recipes and the settings of the stages, files, errors, processes and their device; imports no other package."""
