"""What a job does with the devices that are there: their mesh, what is kept, how a batch is cut."""
