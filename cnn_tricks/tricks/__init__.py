"The tricks: one module a trick or a family, named like its lesson."
