"Images: in memory, from folders, from the network, drawn; loaders that slice them, and their augmentation."
