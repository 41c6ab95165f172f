"""Time series: read from tables, cut into windows, forecast, corrected, scored, drawn."""
