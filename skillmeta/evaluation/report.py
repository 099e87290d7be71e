def write_ablation_report(out):
    return out


def headline(out):
    return "x"
