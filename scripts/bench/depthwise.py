"""When are fewer operations less time? A dense 3x3 convolution against its depthwise separable pair, for lesson 14.

    python scripts/bench/depthwise.py            # into results/bench/depthwise.json: about 20 seconds on one thread
    python scripts/bench/depthwise.py --quick    # fewer turns, into build/quick/: to try the script

Maps of 28x28 and a batch that shrinks as the width grows, so that a map always holds 802,816 numbers; both memory
layouts; forward, and forward and backward. Reports medians of the ratios turn by turn, taken in one run. Let nothing
else run beside it.
"""
import argparse, json, os, warnings
from datetime import date
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
warnings.filterwarnings('ignore')

import torch
from torch import nn

from cnn_tricks.nets.layer_costs import count_macs
from cnn_tricks.tricks.depthwise import depthwise_form
from cnn_tricks.tools.depthwise_speed import layer_times, least_bytes
from cnn_tricks.tricks.hardware import measured_peak
from cnn_tricks.base.machine import machine

ROOT = Path(__file__).resolve().parents[2]
WIDTHS, VALUES, SIDE = (16, 32, 64, 128, 256), 802_816, 28
KINDS = 'forward', 'training'


def row(channels, layout, rounds):
    "All that is told of one width in one layout"
    dense = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    pair = depthwise_form(dense)
    layers = dict(dense=dense, pair=pair, depthwise=pair.depthwise, pointwise=pair.pointwise)
    x = torch.randn(VALUES//(channels*SIDE**2), channels, SIDE, SIDE)
    t = layer_times(layers, x, layout == 'channels last', rounds)
    macs, moved = ({n: f(m, x) for n, m in layers.items()} for f in (count_macs, least_bytes))
    return dict(layout=layout, channels=channels, macs=macs['dense']/macs['pair'], bytes=moved['dense']/moved['pair'],
                **{k: t.ratio(f'pair, {k}', f'dense, {k}') for k in KINDS},
                spread={k: t.spread(f'pair, {k}', f'dense, {k}') for k in KINDS},
                ms={k: 1000*t.median(k) for k in t.seconds},
                speed={n: 2*m/t.median(f'{n}, forward')/1e9 for n, m in macs.items()})  # billion operations a second


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='fewer turns, into build/quick/')
    a = p.parse_args()
    rounds = 3 if a.quick else 15
    widths, layouts = WIDTHS[::4] if a.quick else WIDTHS, ('channels first', 'channels last')
    rows = [row(c, layout, rounds) for layout in layouts for c in widths]
    for r in rows:
        print(f"{r['layout']}, {r['channels']} channels: {r['macs']:.1f} times fewer multiply-adds; times as fast: "
              + ', '.join(f'{k} {r[k]:.2f}' for k in KINDS))
    about = dict(date=date.today().isoformat(), machine=vars(machine()), torch=torch.__version__.split('+')[0],
                 threads=torch.get_num_threads(), rounds=rounds, peak=measured_peak()/1e9,
                 made_by='python scripts/bench/depthwise.py')
    out = ROOT/('build/quick' if a.quick else 'results')/'bench'/'depthwise.json'
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(dict(rows=rows, **about), indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__': main()
