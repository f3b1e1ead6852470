"What a run is: the recipe, its components, the control of the run, training, the result."
