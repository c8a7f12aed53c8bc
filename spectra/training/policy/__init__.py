"""The model that trains: loading, target modules, initial factors, snapshots."""
