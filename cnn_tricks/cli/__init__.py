"The command line: train, predict, audit, lessons, doctor."
