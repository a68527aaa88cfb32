"""What the paper prints in its tables (Liu et al. 2023, TMLR): copied from its text, not from the presets.

Percent, without the standard deviations. Of Table 14, each network's rows.
"""

# What is pruned, on which data, how (Section 5.1 and the captions): network, source, method, rewinding, optimiser.
SETTINGS = {
    "table-02-resnet20-cifar10": ("resnet20", "cifar10", "global_magnitude", "none", "sgd"),
    "table-03-vgg19-cifar10": ("vgg19", "cifar10", "global_gradient", "none", "sgd"),
    "table-04-densenet40-cifar100": ("densenet40", "cifar100", "lamp", "none", "sgd"),
    "table-05-mobilenetv2-cifar100": ("mobilenetv2", "cifar100", "lap", "none", "sgd"),
    "table-06-resnet50-imagenet": ("resnet50", "folder", "global_magnitude", "weights", "sgd"),
    "table-07-vit-cifar10": ("vit-b-16", "cifar10", "global_magnitude", "weights", "sgd"),
    "table-10-vgg19-cifar10": ("vgg19", "cifar10", "global_magnitude", "none", "sgd"),
    "table-11-resnet20-cifar10": ("resnet20", "cifar10", "global_magnitude", "none", "sgd"),
    "table-12-resnet20-adam": ("resnet20", "cifar10", "global_magnitude", "none", "adam"),
    "table-13-resnet20-rmsprop": ("resnet20", "cifar10", "global_magnitude", "none", "rmsprop"),
    "table-14-resnet20-filters": ("resnet20", "cifar10", "l1_filter", "none", "sgd"),
    "table-14-vgg19-filters": ("vgg19", "cifar10", "l1_filter", "none", "sgd"),
}

# Where the schedule comes from: Section 5.1, "SOTA LR Schedules".
SOURCES = {
    "table-02-resnet20-cifar10": "Frankle & Carbin 2019",
    "table-03-vgg19-cifar10": "Frankle et al. 2020",
    "table-04-densenet40-cifar100": "Zhao et al. 2019",
    "table-05-mobilenetv2-cifar100": "Chin et al. 2020",
    "table-06-resnet50-imagenet": "Renda et al. 2019",
    "table-07-vit-cifar10": "Dosovitskiy et al. 2020",
}

ORIGINAL = {2: "91.7", 3: "92.2", 4: "74.6", 5: "73.7", 6: "77.0", 7: "98.0"}  # top-1 at 100% of the weights

ROWS = {
    "table-02-resnet20-cifar10": """
        weights remaining  32.8 26.2 8.59 5.72
        constant LR        88.1 87.5 82.8 79.1
        LR decay           89.8 89.0 83.9 79.8
        cyclical LR        89.7 88.2 84.1 80.3
        LR-warmup          90.3 89.8 85.9 81.2
        SILO               90.8 90.3 87.5 82.7""",
    "table-03-vgg19-cifar10": """
        weights remaining  32.8 26.2 8.59 5.72
        constant LR        88.8 87.4 82.2 73.7
        LR decay           89.4 88.6 83.3 75.4
        cyclical LR        89.8 89.1 83.7 75.7
        LR-warmup          90.2 89.8 84.5 76.5
        SILO               90.6 90.3 86.1 78.5""",
    "table-04-densenet40-cifar100": """
        weights remaining  32.8 26.2 8.59 5.72
        constant LR        70.3 68.1 60.8 59.1
        LR decay           71.2 69.0 62.6 60.3
        cyclical LR        70.9 69.4 63.0 60.8
        LR-warmup          71.5 69.6 63.9 61.2
        SILO               72.4 70.8 65.7 63.7""",
    "table-05-mobilenetv2-cifar100": """
        weights remaining  32.8 26.2 8.59 5.72
        constant LR        69.8 68.2 63.8 62.1
        LR decay           70.9 69.4 65.1 64.0
        cyclical LR        71.5 69.6 65.3 64.3
        LR-warmup          72.1 70.5 66.2 64.8
        SILO               72.5 71.0 68.8 66.8""",
    "table-06-resnet50-imagenet": """
        weights remaining  32.8 26.2 8.59 5.72
        constant LR        74.2 73.9 70.5 69.2
        LR decay           75.6 75.1 72.7 70.5
        cyclical LR        76.5 75.5 73.4 71.2
        LR-warmup          76.6 75.8 73.8 71.5
        SILO               76.8 76.1 75.2 73.8""",
    "table-07-vit-cifar10": """
        weights remaining  32.8 26.2 8.59 5.72
        constant LR        96.4 96.0 83.0 80.1
        cosine decay       97.2 96.5 84.1 81.6
        cyclical LR        97.0 96.5 83.4 81.0
        LR-warmup          97.3 96.8 84.4 82.1
        SILO               97.7 97.4 85.5 83.4""",
    "table-10-vgg19-cifar10": """
        weights remaining  100 51.3 32.9 21.1 5.72
        optimum            4 4.6 9.0 9.8 10.2
        interval           [3.6, 4.2] [4.2, 5.4] [8.0, 9.6] [9.2, 10.4] [9.8, 10.6]
        SILO               4 4.32 9.2 9.9 9.99""",
    "table-11-resnet20-cifar10": """
        weights remaining  100 51.3 41.1 32.9 21.1
        optimum            3.4 3.8 4.6 5.6 6.2
        interval           [2.8, 3.6] [3.4, 4.2] [3.8, 5.2] [5.4, 6.6] [5.4, 6.8]
        SILO               3 3.2 4.7 6.4 6.9""",
    "table-12-resnet20-adam": """
        weights remaining  100 32.9 21.1 5.72 2.03
        constant LR        88.4 84.8 83.5 75.5 67.1
        LR decay           88.6 87.1 83.7 76.1 66.0
        cyclical LR        88.9 86.9 84.1 77.0 64.4
        LR-warmup          89.1 87.2 84.5 75.2 65.1
        SILO               89.2 87.9 86.3 79.5 71.7""",
    "table-13-resnet20-rmsprop": """
        weights remaining  100 32.9 21.1 5.72 2.03
        constant LR        87.9 83.4 81.5 65.5 55.1
        LR decay           88.4 84.8 77.8 67.1 58.3
        cyclical LR        88.1 84.7 81.9 67.5 56.3
        LR-warmup          88.9 85.1 81.7 67.3 57.1
        SILO               88.7 86.1 83.1 72.5 63.5""",
    "table-14-resnet20-filters": """
        weights remaining  30.4 24.7 7.29
        LR-warmup          87.4 85.2 80.8
        SILO               88.1 87.1 82.3""",
    "table-14-vgg19-filters": """
        weights remaining  30.4 24.7 7.29
        LR-warmup          88.5 87.1 82.2
        SILO               89.4 88.5 83.9""",
}


def table_number(preset: str) -> int:
    return int(preset.split("-")[1])


def paper_rows(preset: str) -> dict[str, str]:
    """The rows of a preset's table, cells a space apart; with the unpruned network where it stands in the heading."""
    rows = dict(line.strip().split("  ", 1) for line in ROWS[preset].strip().splitlines())
    rows = {name: cells.strip() for name, cells in rows.items()}
    if original := ORIGINAL.get(table_number(preset)):
        rows = {name: f"{'100' if name == 'weights remaining' else original} {cells}" for name, cells in rows.items()}
    return rows


def columns(preset: str) -> list[float]:
    """Percent of weights remaining, of a preset or its small sibling; without the unpruned network."""
    cells = paper_rows(preset.removesuffix("-small"))["weights remaining"].split()
    return [float(cell) for cell in cells if cell != "100"]
