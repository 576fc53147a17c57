"""Running on clusters: their job server and their workers, and a small Flink cluster on one machine for trying it."""
