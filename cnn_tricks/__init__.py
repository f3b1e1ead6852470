"Which training tricks help your convolutional network, on your images, on your machine."
__version__ = "0.1.0"
