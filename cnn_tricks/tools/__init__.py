"What one applies to a Learner, a model or a data set: finders, probes, heat maps, searches."
