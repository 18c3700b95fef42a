"""Launch files for schedulers: each written from one LaunchSpec."""
