"A part of Fashion-MNIST, as data files."
