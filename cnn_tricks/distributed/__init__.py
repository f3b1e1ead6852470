"Training on several processes."
