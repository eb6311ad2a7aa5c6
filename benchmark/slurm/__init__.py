"""What launcher=slurm is made of: shares of the jobs, what a task does, what the queue says."""
