"""The rule of form.py that looks for a reason behind each tag nbval-ignore-output.

The tag keeps a cell's output from being compared, so it must be needed: something in the cell comes from training,
from a clock, from the machine, or is a difference within rounding. That is read from the sources, without running
them: a name is *fed* when its value was computed from another that is, back to a call in `FEEDS`. Where that is in
doubt a name counts as fed, so that no tag with a reason is refused.
"""
import ast, copy

TRAINS = {'train', 'step', 'fit', 'fit_one_cycle', 'fit_steps', 'fine_tune', 'lr_find', 'find_lr', 'search', 'repeat',
          'compare', 'ledger', 'kfold_compare', 'leave_one_out', 'successive_halving', 'audit', 'train_together',
          'on_processes', 'linear_probe', 'fit_link', 'recipe_step', 'load_trained', 'autotune', 'find_batch_size'}
CLOCK = {'perf_counter', 'process_time', 'monotonic', 'today', 'now', 'profile', 'time_in_turns', 'time_to',
         'training_costs', 'measure_costs', 'measure_steps', 'step_seconds', 'step_phases', 'step_operations',
         'layer_times', 'throughput', 'depthwise_speeds', 'fastest', 'fastest_precision', 'side_by_side',
         'before_you_start', 'claims_table'}  # the last two show the time and the answers of other lessons' last runs
COMMANDS = {'main', 'run', 'run_process', 'Popen', 'check_output'}
MACHINE = {'cpu_count', 'get_num_threads', 'default_device', 'diagnosis', 'doctor', 'free_memory', 'page_faults',
           'measured_peak', 'memory_measured', 'version', 'usable', 'machine', 'environ', 'lessons_path'}
READS = {'read_text', 'read_bytes', 'open', 'load', 'glob', 'iterdir'}  # fed once a command may have written files
FEEDS = TRAINS | CLOCK | MACHINE | COMMANDS
COMPREHENSIONS = ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp


def names(node): return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def name_of(call): return getattr(call.func, 'id', getattr(call.func, 'attr', ''))


def calls(node): return {name_of(n) for n in ast.walk(node) if isinstance(n, ast.Call)}


def changed(target):
    "The names that an assignment to `target` changes: `a` for `a`, `a.b`, `a[0]` and `(a, c)`."
    if isinstance(target, (ast.Tuple, ast.List)): return set().union(*map(changed, target.elts))
    while isinstance(target, (ast.Attribute, ast.Subscript, ast.Starred)): target = target.value
    return {target.id} if isinstance(target, ast.Name) else names(target)


def own_names(statement):
    "A copy of `statement` in which what is local to a function or a comprehension has a name of its own."
    statement = copy.deepcopy(statement)
    for k, n in enumerate(ast.walk(statement)):
        if isinstance(n, COMPREHENSIONS):
            own, outside = set().union(*(changed(g.target) for g in n.generators)), set(ast.walk(n.generators[0].iter))
        elif isinstance(n, (ast.FunctionDef, ast.Lambda)):
            own, outside = {a.arg for a in ast.walk(n.args) if isinstance(a, ast.arg)}, set()
            own |= {m.id for m in ast.walk(n) if isinstance(m, ast.Name) and isinstance(m.ctx, ast.Store)}
        else: continue
        for m in ast.walk(n):
            if isinstance(m, ast.Name) and m.id in own and m not in outside: m.id = f'{m.id} {k}'
    return statement


def descends(node):
    "Is it a loop that takes gradients and moves something by them, which is training by hand?"
    if not isinstance(node, (ast.For, ast.While)) or not calls(node) & {'grad', 'backward'}: return False
    return bool(calls(node) & {'sub_', 'add_', 'copy_'}) or any(isinstance(n, ast.AugAssign) for n in ast.walk(node))


def rounds(node):
    "Does it print a number as a power of ten, `{gap:.0e}`, as one prints what is left by rounding?"
    return isinstance(node, ast.FormattedValue) and node.format_spec and 'e' in ast.unparse(node.format_spec)[-3:]


def assigned(node):
    "(names that `node` gives a value, where the value comes from), or None"
    match node:
        case ast.Assign(): return set().union(*map(changed, node.targets)), node.value
        case ast.AnnAssign(value=ast.expr()) | ast.AugAssign() | ast.NamedExpr():
            return changed(node.target), node.value
        case ast.For() | ast.comprehension(): return changed(node.target), node.iter
        case ast.withitem(optional_vars=ast.expr()): return changed(node.optional_vars), node.context_expr
        case ast.FunctionDef() | ast.ClassDef(): return {node.name}, node
        case ast.Expr(value=ast.Call(func=ast.Attribute() as f)) if f.attr in ('append', 'extend', 'update', 'add'):
            return changed(f.value), node.value


class Feeding:
    "What of a notebook's names is fed, statement after statement."

    def __init__(self):
        self.fed, self.made_from, self.functions, self.imported, self.commands = set(), {}, {}, set(), False

    def is_fed(self, name, seen=()):
        "A function is fed by the names that it uses, too, as they are now."
        uses = self.functions.get(name, ()) if name not in seen else ()
        return name in self.fed or any(self.is_fed(n, (*seen, name)) for n in uses)

    def feeds(self, node):
        "Is something below `node` fed?"
        roots = FEEDS | READS if self.commands else FEEDS
        return bool(calls(node) & roots) or any(map(self.is_fed, names(node))) or any(
            rounds(n) or descends(n) for n in ast.walk(node))

    def touched(self, call):
        "What a call may change whose value nobody takes: `opt.step()` changes `opt` and what `opt` was made from."
        todo, seen = names(call), set()
        while todo:
            name = todo.pop()
            if name in seen | self.imported: continue
            seen.add(name)
            todo |= self.made_from.get(name, set())
        return seen

    def read(self, statement):
        "Follow one statement of a cell; is it fed?"
        self.commands |= bool(calls(statement) & COMMANDS)
        statement = own_names(statement)
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            self.imported |= {a.asname or a.name.split('.')[0] for a in statement.names}
        if isinstance(statement, ast.Assign) and not self.feeds(statement.value):
            for t in statement.targets:
                if isinstance(t, ast.Name): self.fed.discard(t.id), self.made_from.pop(t.id, 0)  # a new value
        if isinstance(statement, ast.FunctionDef): self.functions[statement.name] = names(statement)
        for n in (n for _ in range(2) for n in ast.walk(statement)):  # twice: a loop's end feeds its beginning
            if found := assigned(n):
                targets, value = found
                for t in targets: self.made_from.setdefault(t, set()).update(names(value) - {t})
                if self.feeds(value): self.fed |= targets - self.imported
            if descends(n):
                self.fed |= set().union(*(found[0] for m in ast.walk(n) if (found := assigned(m)))) - self.imported
            if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call) and self.feeds(n.value):
                self.fed |= self.touched(n.value)
        return self.feeds(statement)


def training_outputs(nb):
    "What is tagged nbval-ignore-output comes from training, a clock, the machine or rounding; all else is compared."
    feeding = Feeding()
    for c in nb.code:
        shell = any(l.lstrip().startswith(('!', '%')) for l in c.source.splitlines())
        feeding.commands |= shell
        fed = [feeding.read(s) for s in c.body]
        if 'nbval-ignore-output' in c.tags and not shell and not any(fed):
            yield f'{c}: nbval-ignore-output, but no training, clock or machine feeds it: take the tag off'
