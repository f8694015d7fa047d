"""What `tierfs doctor` looks at; each part in a process that may hang."""
