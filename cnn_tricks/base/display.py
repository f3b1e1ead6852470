"""What a notebook shows as a page of the site and a terminal as text: tables, and texts with markup"""

__all__ = ['Shown', 'Table']


class Shown:
    "Markdown in a notebook, plain text elsewhere."
    def __init__(self,
        markdown:str, # what a notebook and the site show
        text:str='', # what a terminal shows; default: the markdown
    ):
        self.markdown,self.text = markdown,text or markdown
    def _repr_markdown_(self): return self.markdown
    def __repr__(self): return self.text


class Table(Shown):
    "Rows that show themselves as a table."
    def __init__(self,
        rows:list, # a dict each
        columns:dict, # key of a row -> heading of its column
    ):
        self.rows = rows
        cell = lambda v: str(v).replace('\n', ' ').replace('|', r'\|')
        lines = [list(columns.values()), ['---']*len(columns)] + [[cell(r[k]) for k in columns] for r in rows]
        super().__init__('\n'.join('| ' + ' | '.join(l) + ' |' for l in lines))
