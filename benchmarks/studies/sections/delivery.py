"""What the whole pipeline delivers, for the page and for the README: from one supernet to answers over HTTP."""

from __future__ import annotations

from typing import Any

from evidence import NOT_YET, Evidence, Result, table
from rivals import CHANGES


def pipeline(found: Evidence) -> list[str]:
    """From supernet to answers over HTTP."""
    result = found.pipeline
    if result is None:
        return [NOT_YET]
    precisions = ("fp32", "fp16", "cpu-int8")
    rows, rivals = [], []
    for row in result["subnets"]:
        latency = row["latency"]
        measured = latency["measured_ms"]
        cells = [row["budget"], f"{row['flops'] / 1e6:.2f} M"]
        cells.append(f"{latency['predicted_ms']:.3f} ± {latency['error_ms']:.3f}")
        cells += [f"{measured['fp32']:.3f}", f"{measured['cpu-int8']:.3f}" if "cpu-int8" in measured else "–"]
        cells.append(f"{100 * row['torch_top1']:.2f}")
        rows.append([*cells, *[http_figure(row, precision) for precision in precisions]])
        beside = [found.job("rivals", f"{name}-{row['budget']}") for name in RIVALS]
        figures = [f"{100 * r['test_top1']:.2f} ({r['flops'] / 1e6:.2f} M)" if r else "not trained yet" for r in beside]
        rivals.append([row["budget"], f"{100 * row['torch_top1']:.2f} ({row['flops'] / 1e6:.2f} M)", *figures])
    error = result["table"]["error"]
    times = [row["latency"]["measured_ms"] for row in result["subnets"]]
    foretold = [row["latency"]["predicted_ms"] for row in result["subnets"]]
    off = [took["fp32"] / told_ms - 1 for took, told_ms in zip(times, foretold, strict=True)]
    is_slower = all(each.get("cpu-int8", 0) > each["fp32"] for each in times)
    slower = ["Int8 takes longer than fp32 on this processor, which has AVX2 and no integer dot products."] * is_slower
    header = ["budget", "multiply-adds", "predicted ms", "fp32 ms", "int8 ms", "torch %"]
    header += [f"{p} over HTTP %" for p in precisions]
    text = [
        f"From `{result['supernet']}` by `{result['command']}`; top-1 on {result['test_images']:,} test",
        f"images. The latency table errs by {error['mape']:.1%} on {error['nets']} held-out nets (worst",
        f"{error['worst']:.1%}), a straight line through the multiply-adds by {error['flops_line_mape']:.1%}.",
        "Milliseconds are medians of one image on one thread. Bundles keep fp16 for TensorRT; here a copy's manifest",
        "lets ONNX Runtime run it, which converts on a processor, so that its time would say nothing.",
        *slower,
        "",
        *table(header, rows),
        "",
        f"The shipped files took {', '.join(f'{each:+.1%}' for each in off)} against what was foretold, minutes later",
        "on a shared machine; what changes there between the table and its use is not in the table's own error.",
        "",
        "Beside networks trained for one budget, on as many images as the supernet saw; MobileNetV2's classifier at",
        f"{CHANGES['mobilenet_v2']['classifier_lr']:g} of the learning rate, without which it hardly learns",
        "([why](decisions/0019-classifier-rate.md)). One seed each, while the supernet is the best of all on",
        "validation images, of seeds that differ by points: a lead is in part that choice.",
        "",
        *table(["budget", "from the supernet", *RIVALS.values()], rivals),
        "",
        "What a new target costs, in minutes of this machine:",
        "",
    ]
    seconds = {**result["seconds"], "together": sum(result["seconds"].values()), **result["later_seconds"]}
    text += table(["step", "minutes"], [[name, f"{value / 60:.1f}"] for name, value in seconds.items()])
    alone = found.job("rivals", f"shipped-{result['subnets'][0]['budget']}")
    if alone:
        text += ["", f"Training the first of these networks alone took {alone['seconds'] / 60:.0f} minutes."]
    return text


def served(result: Result) -> list[str]:
    """Return the README's table of the subnets that were extracted and served."""
    rows = []
    for row in result["subnets"]:
        foretold, measured = row["latency"]["predicted_ms"], row["latency"]["measured_ms"]
        cells = [row["budget"], f"{row['flops'] / 1e6:.2f} M", f"{foretold:.2f}", f"{measured['fp32']:.2f}"]
        cells.append(f"{measured['cpu-int8']:.2f}" if "cpu-int8" in measured else "–")
        rows.append([*cells, http_figure(row, "fp32"), http_figure(row, "cpu-int8")])
    header = ["budget", "multiply-adds", "foretold ms", "fp32 ms", "int8 ms", "fp32 over HTTP %", "int8 over HTTP %"]
    return table(header, rows)


RIVALS = {
    "shipped": "same net from scratch",
    "mobilenet_v2": "MobileNetV2",
    "mobilenet_v3_large": "MobileNetV3-Large",
}


def http_figure(row: dict[str, Any], precision: str) -> str:
    """Return the top-1 of one precision, or why there is none."""
    entry = row["precisions"].get(precision)
    return "–" if entry is None else f"{100 * entry['http_top1']:.2f}"
