"""python -m microgpt_trace"""

from .cli import main

main()
