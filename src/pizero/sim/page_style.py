"""How the page of an evaluation looks, in light and in dark."""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --ink: #1c1d20; --faint: #6b6f76; --line: #dcdde0; --paper: #fdfdfc; --panel: #f3f3f1;
  --c0: #2f6fb4; --c1: #c98a2b; --c2: #8d8f94; --c3: #5f9a6b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e3; --faint: #9b9ea4; --line: #36383c; --paper: #17181a;
  --panel: #212326; --c0: #6aa5e3; --c1: #dba850; --c2: #7d8086; --c3: #7fbf8c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 46rem; padding: 1.2rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0; } h2 { font-size: 1.05rem; margin: 2.2rem 0 .6rem; } p { margin: .4rem 0; }
.big { font-size: 3rem; line-height: 1.15; font-weight: 650; color: var(--c0); margin: .5rem 0 0; }
small { color: var(--faint); font-size: .8rem; } th small, td small { display: block; font-weight: 400; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 550; } thead th { color: var(--faint); font-size: .8rem; } tr.total th, tr.total td { border: 0; }
.rates td { white-space: nowrap; } .rates td small { white-space: normal; }
figure { margin: 1rem 0; } figcaption { font-size: .85rem; color: var(--faint); }
.legend { display: block; } .legend span { margin-right: 1rem; white-space: nowrap; }
.legend i { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px; margin-right: .35rem; }
svg { display: block; width: 100%; max-width: 38rem; margin-top: .4rem; font: 12px system-ui, sans-serif; }
svg text { fill: var(--faint); } .grid { stroke: var(--line); } .curve { fill: none; stroke-width: 2; }
.interval { fill: none; stroke: var(--ink); stroke-width: 1.2; }
.strip img { display: block; width: 100%; }
.videos { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: .8rem; }
.videos figure { margin: 0; } video { width: 100%; display: block; border-radius: 4px; }
pre { background: var(--panel); padding: .6rem .8rem; border-radius: 4px; overflow-x: auto; font-size: .85rem; }
"""
