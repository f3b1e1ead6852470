"What lessons need to be lessons: checkers, answers, and the tables of the course."
