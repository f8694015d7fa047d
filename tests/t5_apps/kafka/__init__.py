"""A Kafka broker for tests and measurements: fetched, started, stopped, killed; what is written to it is read again."""
