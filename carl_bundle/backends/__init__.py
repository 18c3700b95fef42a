"""Where scripts run: one module a backend, all behind one protocol."""
