"""What a notebook shows as a page of the site and a terminal as text: tables, texts with markup, progress bars"""
import time

__all__ = ['Shown', 'Table', 'SlowBar']


class Shown:
    "Markdown in a notebook, plain text elsewhere."

    def __init__(self,
                 markdown: str,  # What a notebook and the site show
                 text: str = '',  # What a terminal shows; default: the markdown
                 ):
        self.markdown, self.text = markdown, text or markdown

    def _repr_markdown_(self): return self.markdown
    def __repr__(self): return self.text


class Table(Shown):
    "Rows that show themselves as a table."

    def __init__(self,
                 rows: list,  # A dict each
                 columns: dict,  # Key of a row -> heading of its column
                 ):
        self.rows = rows
        cell = lambda v: str(v).replace('\n', ' ').replace('|', r'\|')
        lines = [list(columns.values()), ['---']*len(columns)] + [[cell(r[k]) for k in columns] for r in rows]
        super().__init__('\n'.join('| ' + ' | '.join(l) + ' |' for l in lines))


class SlowBar:
    "A progress bar that appears only where the work will take over 2 seconds; a context"

    def __init__(self,
                 label: str,  # What is going on
                 total: int,  # How much there is to do
                 show: bool = True,  # False: never show it
                 console=None,  # rich's console to show it on; None: stdout
                 ):
        self.label, self.total, self.show, self.console = label, total, show, console
        self.bar, self.start = None, time.monotonic()

    def update(self,
               done: int,  # Of `total`
               ):
        "Say how much is done"
        spent = time.monotonic() - self.start
        if self.show and self.bar is None and done and spent/done*self.total > 2:
            from rich.progress import Progress
            self.bar = Progress(transient=True, console=self.console)
            self.bar.add_task(self.label, total=self.total)
            self.bar.start()
        if self.bar: self.bar.update(0, completed=done)

    def __enter__(self): return self

    def __exit__(self, *_):
        if self.bar: self.bar.stop()
