"""Draw the picture in the README: `python dev_scripts/dataflow.py` writes dev_scripts/dataflow.svg."""

from html import escape
from pathlib import Path

WIDTH, HEIGHT = 1080, 466

# kind, place (x, y, width, height), title, lines below it
BOXES = [
    ("frame", (20, 20, 510, 270), "your process", []),
    ("frame", (640, 20, 180, 270), "background processes", []),
    ("frame", (930, 20, 130, 270), "server", []),
    ("box", (40, 64, 150, 206), "your code", ["getm.open", "getm.urlopen", "getm.iter_content", "getm.copy"]),
    ("box", (260, 64, 94, 76), "reader", ["position;", "bytes out"]),
    ("box", (416, 64, 94, 76), "planner", ["what to", "fetch next"]),
    ("box", (260, 194, 250, 76), "block table", ["which block is in which slot;", "least recently used makes room"]),
    ("box", (660, 64, 140, 46), "worker 1", []),
    ("box", (660, 124, 140, 46), "worker 2", []),
    ("box", (660, 224, 140, 46), "worker n", []),
    ("memory", (260, 350, 560, 96), "shared memory: equal slots, one block in each", []),
    ("box", (930, 350, 130, 96), "FILE.part", ["workers write", "straight to it"]),
]

# what goes along the line, its corners, its label, and where that is
ARROWS = [
    ("words", [(190, 102), (260, 102)], "read(n)", (225, 93)),
    ("words", [(354, 102), (416, 102)], "range", (384, 93)),
    ("words", [(463, 140), (463, 194)], "", (0, 0)),
    ("words", [(510, 86), (640, 86)], "fetch, grant", (584, 77)),
    ("words", [(640, 122), (510, 122)], "filled, done", (585, 140)),
    ("words", [(820, 86), (951, 86)], "range requests", (875, 77)),
    ("bytes", [(951, 155), (820, 155)], "bodies", (880, 144)),
    ("bytes", [(730, 290), (730, 350)], "received\nin place", (774, 317)),
    ("bytes", [(260, 398), (115, 398), (115, 270)], "copied once,\nor lent as a view", (188, 328)),
    ("bytes", [(820, 247), (875, 247), (875, 398), (930, 398)], "copies", (905, 326)),
]

SLOTS = ["5", "", "2", "3", "4", "0", "", "7"]  # the numbers of the blocks in them
OBJECT = ["0", "1", "2", "3", "4", "5", "6", "7"]

STYLE = """
  text { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #57606a; text-anchor: middle }
  .title { font-weight: 600; fill: #1f2328 }
  .code { font-family: ui-monospace, monospace; font-size: 12px }
  .number { font-weight: 600; fill: #ffffff }
  .page { fill: #ffffff }
  .frame { fill: #f6f8fa; stroke: #d0d7de }
  .box, .empty { fill: #ffffff; stroke: #8c959f }
  .memory { fill: #ddf4ff; stroke: #54aeff }
  .full { fill: #218bff; stroke: #0969da }
  polyline { fill: none; stroke-linejoin: round }
  .words { stroke: #6e7781; stroke-width: 1.5 }
  .bytes { stroke: #0969da; stroke-width: 4 }
  .head-of-words { fill: #6e7781 }
  .head-of-bytes { fill: #0969da }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1 }
    .title { fill: #f0f6fc }
    .page { fill: #0d1117 }
    .frame { fill: #151b23; stroke: #3d444d }
    .box, .empty { fill: #0d1117; stroke: #656c76 }
    .memory { fill: #0c2d6b; stroke: #1f6feb }
    .full { fill: #1f6feb; stroke: #58a6ff }
    .words { stroke: #9198a1 }
    .bytes { stroke: #58a6ff }
    .head-of-words { fill: #9198a1 }
    .head-of-bytes { fill: #58a6ff }
  }
"""

Place = tuple[int, int, int, int]


def main() -> None:
    """Write the picture beside this file."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>How bytes flow through getm</title>",
        f"<style>{STYLE}</style>",
        head("words", 8),
        head("bytes", 13),
        rectangle("page", (0, 0, WIDTH, HEIGHT), 12),
        *(part for box in BOXES for part in draw_box(*box)),
        *(part for arrow in ARROWS for part in draw_arrow(*arrow)),
        *(part for row, block in enumerate(OBJECT) for part in draw_block(block, (951, 66 + row * 26, 88, 20))),
        *(part for column, block in enumerate(SLOTS) for part in draw_block(block, (278 + column * 66, 388, 60, 42))),
        text("", 730, 203, "..."),
        "</svg>",
    ]
    Path(__file__).with_suffix(".svg").write_text("\n".join([*filter(None, parts), ""]), encoding="utf-8")


def draw_box(kind: str, place: Place, title: str, lines: list[str]) -> list[str]:
    """Return a rectangle with its title and the lines below it."""
    x, y, width, height = place
    middle = x + width // 2
    top = y + height // 2 + 5 if kind == "box" and not lines else y + 28
    pitch = max(18, (height - 60) // max(1, len(lines)))
    style = "code" if title == "your code" else ""
    below = [text(style, middle, top + 4 + pitch * row, line) for row, line in enumerate(lines, 1)]
    return [rectangle(kind, place, 8), text("title", middle, top, title), *below]


def draw_arrow(kind: str, corners: list[tuple[int, int]], label: str, middle: tuple[int, int]) -> list[str]:
    """Return a line through *corners* with a head at its end, and its label."""
    x, y = middle
    points = " ".join(f"{corner_x},{corner_y}" for corner_x, corner_y in corners)
    lines = [text("", x, y + 18 * row, line) for row, line in enumerate(label.split("\n"))]
    return [f'<polyline class="{kind}" points="{points}" marker-end="url(#{kind})"/>', *lines]


def draw_block(number: str, place: Place) -> list[str]:
    """Return a block and its number, or the empty slot if it has none."""
    x, y, width, height = place
    shape = rectangle("full" if number else "empty", place, 3)
    return [shape, text("number", x + width // 2, y + height // 2 + 5, number)]


def rectangle(kind: str, place: Place, radius: int) -> str:
    """Return a rectangle with round corners."""
    x, y, width, height = place
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}"/>'


def text(kind: str, x: int, y: int, words: str) -> str:
    """Return one line of text, nothing if it has no words."""
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(words)}</text>' if words else ""


def head(kind: str, size: int) -> str:
    """Return the arrow head of a kind of line; its tip is where the line ends."""
    return (
        f'<marker id="{kind}" markerUnits="userSpaceOnUse" viewBox="0 0 10 10" refX="9" refY="5" orient="auto" '
        f'markerWidth="{size}" markerHeight="{size}"><path class="head-of-{kind}" d="M0 0 L10 5 L0 10 z"/></marker>'
    )


if __name__ == "__main__":
    main()
