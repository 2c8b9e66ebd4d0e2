"""Whatever carries out a step: torch on the CPU, or the roofline's prediction."""
