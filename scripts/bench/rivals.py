"""The recipes that the race runs against, from their published settings, in plain PyTorch.

`article`: three convolutions, Adam at 0.001, batches of 64, pixels in [0, 1] (the article that this course examines).
`fastai`: a ResNet of six blocks, widths 16 to 512, AdamW, one cycle up to 0.01 in batches of 1,024, five epochs (fast.ai,
"From Deep Learning Foundations to Stable Diffusion", 2022, lesson 18: 93.2% on Fashion-MNIST).
`airbench`: airbench94 (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds", section 3): a whitening convolution from the
training images, three groups of two convolutions, Nesterov SGD, label smoothing, alternating flip, translation,
Lookahead, and six views of each test image. Its width, number of epochs and schedule's length may be changed; images
of one channel have their own whitening.

Each function trains on `data.train` and gives the accuracy on `judged` after each epoch, outside the clock.
"""
import math, time
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import nn

from cnn_tricks.base.machine import finish_work
from cnn_tricks.nets.networks import networks
from cnn_tricks.tools.memory_allocator import kept_memory


class Run:
    "The clock of a run, its device and number format, and what came out: [epochs, seconds, accuracy] each time"
    def __init__(self, judged, epochs, device='cpu', dtype=torch.float32, only=None):
        self.judged, self.epochs, self.device, self.dtype = judged, epochs, device, dtype
        self.only = only  # stop after so many epochs of a schedule that is meant for `epochs`
        self.seconds, self.steps, self.history = 0., 0, []

    @contextmanager
    def training(self):
        "What is done in this block is timed"
        finish_work(self.device)
        start = time.perf_counter()
        yield
        finish_work(self.device)
        self.seconds += time.perf_counter() - start

    @property
    def last(self):
        "How many epochs will be done"
        return self.epochs if self.only is None else min(self.only, self.epochs)

    @torch.no_grad()
    def judge(self, epoch, net, prepare, views=lambda net, x: net(x)):
        "Accuracy on the judged images, not timed"
        net.eval()
        right = 0
        for x, y in zip(self.judged.x.split(1000), self.judged.y.split(1000)):
            right += (views(net, prepare(x.to(self.device))).argmax(1) == y.to(self.device)).sum().item()
        net.train()
        self.history.append([epoch, self.seconds, right/len(self.judged)])


def batches(n, batch_size, device, drop_last=False):
    "The indices of an epoch's batches, in a new order"
    order = torch.randperm(n, device=device)
    return [i for i in order.split(batch_size) if len(i) == batch_size or not drop_last]


def plain_epochs(run, data, net, opt, batch_size, prepare, step=lambda: None):
    "Epochs of: slice, forward, cross entropy, backward, update"
    x_all, y_all = data.train.x.to(run.device), data.train.y.to(run.device)
    for epoch in range(run.last):
        with run.training():
            for i in batches(len(y_all), batch_size, run.device):
                F.cross_entropy(net(prepare(x_all[i])), y_all[i]).backward()
                opt.step()
                opt.zero_grad()
                step()
                run.steps += 1
        run.judge(epoch + 1, net, prepare)


def article(run, data, seed):
    "The article's network and settings; Keras's Adam has an epsilon of 1e-7"
    torch.manual_seed(seed)
    net = networks['article'](data.channels, data.n_classes, data.size).to(run.device).train()
    plain_epochs(run, data, net, torch.optim.Adam(net.parameters(), 1e-3, eps=1e-7), 64, lambda x: x.float()/255)


class GeneralRelu(nn.Module):
    "Leaky ReLU minus a constant, as the course builds it"
    def forward(self, x): return F.leaky_relu(x, 0.1) - 0.4


def _conv(c_in, c_out, kernel_size=3, stride=1, norm=True, act=True):
    layers = [nn.Conv2d(c_in, c_out, kernel_size, stride, kernel_size//2)]
    return nn.Sequential(*layers, *[nn.BatchNorm2d(c_out)]*norm, *[GeneralRelu()]*act)


class Block(nn.Module):
    "Two convolutions, of which the second has the stride, beside an averaged shortcut"
    def __init__(self, c_in, c_out, stride, kernel_size=3):
        super().__init__()
        self.body = nn.Sequential(_conv(c_in, c_out, kernel_size), _conv(c_out, c_out, kernel_size, stride, act=False))
        pool = [nn.AvgPool2d(2, ceil_mode=True)] if stride > 1 else []
        self.shortcut = nn.Sequential(*pool, _conv(c_in, c_out, 1, norm=False, act=False))
        self.act = GeneralRelu()

    def forward(self, x): return self.act(self.body(x) + self.shortcut(x))


def fastai_net(channels, n_classes, widths=(16, 32, 64, 128, 256, 512)):
    blocks = [Block(channels, widths[0], 1, 5), *(Block(a, b, 2) for a, b in zip(widths, widths[1:]))]
    net = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], n_classes, bias=False),
                        nn.BatchNorm1d(n_classes))
    for m in net.modules():
        if isinstance(m, nn.Conv2d): nn.init.kaiming_normal_(m.weight, a=0.1)
    return net


def fastai(run, data, seed, tuned=False, widths=(16, 32, 64, 128, 256, 512)):
    "fast.ai's five epochs; `tuned`: with this package's settings of the machine, which change no recipe"
    torch.manual_seed(seed)
    form = torch.channels_last if tuned else torch.contiguous_format
    net = fastai_net(data.channels, data.n_classes, widths).to(run.device, memory_format=form).train()
    opt = torch.optim.AdamW(net.parameters(), 1e-2, fused=True if tuned else None)
    total = run.epochs*math.ceil(len(data.train)/1024)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 1e-2, total)
    mean, std = (v.to(run.device).view(-1, 1, 1) for v in (data.mean, data.std))
    def prepare(x): return ((x.float()/255 - mean)/std).contiguous(memory_format=form)
    with kept_memory() if tuned else nullcontext():
        plain_epochs(run, data, net, opt, 1024, prepare, schedule.step)


class FixedScale(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale
    def forward(self, x): return x*self.scale


def _norm(channels):
    "Batch norm with a bias alone, whose statistics forget quickly"
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


def _dirac(c_in, c_out):
    "A convolution whose first channels hand their input on at the start"
    conv = nn.Conv2d(c_in, c_out, 3, padding='same', bias=False)
    with torch.no_grad(): nn.init.dirac_(conv.weight[:c_in])
    return conv


def airbench_net(channels, n_classes, width=64):
    "The network, its whitening still to be set"
    filters, groups = 2*channels*4, []
    for c_in, c_out in ((filters, width), (width, 4*width), (4*width, 4*width)):
        groups += [_dirac(c_in, c_out), nn.MaxPool2d(2), _norm(c_out), nn.GELU(), _dirac(c_out, c_out), _norm(c_out), nn.GELU()]
    whiten = nn.Conv2d(channels, filters, 2)
    nn.init.zeros_(whiten.bias)
    whiten.weight.requires_grad_(False)
    return nn.Sequential(whiten, nn.GELU(), *groups, nn.AdaptiveMaxPool2d(1), nn.Flatten(),
                         nn.Linear(4*width, n_classes, bias=False), FixedScale(1/9))


@torch.no_grad()
def set_whitening(conv, x, eps=5e-4):
    "Filters that make the patches of `x` (normalised images) uncorrelated and of variance 1, and their negatives"
    k = conv.kernel_size[0]
    patches = F.unfold(x.float(), k).transpose(1, 2).reshape(-1, x.shape[1]*k*k).double()
    values, vectors = torch.linalg.eigh(patches.T @ patches/len(patches))
    filters = (vectors/(values + eps).sqrt()).T.flip(0).reshape(-1, x.shape[1], k, k)
    conv.weight.copy_(torch.cat([filters, -filters]))


def triangle(done, start=0.2, end=0.07, peak=0.23):
    "The schedule: up to 1 at `peak`, down to `end`"
    return start + (1 - start)*done/peak if done < peak else 1 + (end - 1)*(done - peak)/(1 - peak)


def six_views(net, x):
    "The mean over the image, its mirror image and both moved by a pixel up and left, down and right"
    def both(v): return (net(v) + net(v.flip(-1)))/2
    h, w = x.shape[-2:]
    padded = F.pad(x, (1,)*4, 'reflect')
    return both(x)/2 + (both(padded[..., :h, :w]) + both(padded[..., 2:, 2:]))/4


class Lookahead:
    "An average of the weights and statistics, to which they are set back each time"
    def __init__(self, net): self.kept = {k: v.clone() for k, v in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net, decay):
        for k, v in net.state_dict().items():
            if not v.is_floating_point(): continue
            self.kept[k].lerp_(v, 1 - decay)
            v.copy_(self.kept[k])


def moved(x, pixels):
    "Each image moved by up to `pixels` along each axis, mirrored pixels coming in"
    n, _, h, w = x.shape
    by = torch.randint(2*pixels + 1, (2, n), device=x.device)
    windows = F.pad(x, (pixels,)*4, 'reflect').unfold(2, h, 1).unfold(3, w, 1)
    return windows[torch.arange(n, device=x.device), :, by[0], by[1]]


def airbench(run, data, seed, width=64, batch_size=1024, translate=2):
    "airbench94's training: the published rates are for 1,024 images, decoupled from momentum and decay"
    torch.manual_seed(seed)
    with run.training():
        mean, std = (v.to(run.device).view(-1, 1, 1) for v in (data.mean, data.std))
        x_all, y_all = data.train.x.to(run.device), data.train.y.to(run.device)
        mirrored = torch.rand(len(y_all), device=run.device) < 0.5
        def prepare(x): return ((x.float()/255 - mean)/std).to(run.dtype, memory_format=torch.channels_last)
        net = airbench_net(data.channels, data.n_classes, width)
        set_whitening(net[0], prepare(x_all[:5000]).cpu())
        net = net.to(run.device, run.dtype, memory_format=torch.channels_last).train()
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d): m.float()
    momentum = 0.85
    scale = 1024*(1 + 1/(1 - momentum))
    lr, decay = 11.5/scale, 0.0153*batch_size/scale
    biases = [m.bias for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    others = [p for p in net.parameters() if p.requires_grad and not any(p is b for b in biases)]
    opt = torch.optim.SGD([dict(params=biases, lr=64*lr, weight_decay=decay/(64*lr)),
                           dict(params=others, lr=lr, weight_decay=decay/lr)], momentum=momentum, nesterov=True)
    peaks, ahead = [g['lr'] for g in opt.param_groups], None
    total = math.ceil(run.epochs*(len(y_all)//batch_size))
    for epoch in range(math.ceil(run.last)):
        net[0].bias.requires_grad_(epoch < 3)
        with run.training():
            for i in batches(len(y_all), batch_size, run.device, drop_last=True):
                if run.steps >= total: break
                for g, peak in zip(opt.param_groups, peaks): g['lr'] = peak*triangle(run.steps/total)
                x = prepare(x_all[i])
                turn = mirrored[i] ^ (epoch % 2 == 1)  # every image is seen mirrored in every other epoch
                x = moved(torch.where(turn.view(-1, 1, 1, 1), x.flip(-1), x), translate)
                loss = F.cross_entropy(net(x.contiguous(memory_format=torch.channels_last)), y_all[i],
                                       label_smoothing=0.2, reduction='sum')
                opt.zero_grad()
                loss.backward()
                opt.step()
                run.steps += 1
                if epoch >= 3 and run.steps % 5 == 0:
                    if ahead is None: ahead = Lookahead(net)
                    else: ahead.update(net, 0.95**5*(run.steps/total)**3)
            if ahead is not None: ahead.update(net, 1.)
        run.judge(min(epoch + 1, run.epochs), net, prepare, six_views)
