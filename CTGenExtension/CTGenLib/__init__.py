"""What the CTGen modules share: engine process, jobs, geometry, results, installation. Nothing here imports torch."""
