"""How a specimen is imaged: optics, Fourier images, the linear engine, scan, background and detector."""
