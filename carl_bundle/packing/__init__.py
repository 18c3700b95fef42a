"""From a script to what it runs with elsewhere: a lock, and a folder for an air gap."""
