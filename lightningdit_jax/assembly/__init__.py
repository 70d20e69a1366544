"""What a config, a command line or a checkpoint means in objects; jobs are made of it."""
