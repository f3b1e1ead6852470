"Pages: of a training, of an audit."
