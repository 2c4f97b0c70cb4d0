"""Tables as people and machines write them: formats, column names, values, times, and a tally of what was read otherwise than written."""
