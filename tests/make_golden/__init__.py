"""Makes the golden cases from the PyTorch release, and compares them with those that are stored.

    python -m tests.make_golden --release=CHECKOUT [--taming=CHECKOUT] --check
    python -m tests.make_golden --release=CHECKOUT --cases=NAME,NAME --output=FOLDER

The checkouts are clones of github.com/hustvl/LightningDiT and of CompVis/taming-transformers (the
loss cases only) at the commits that testdata/golden/README.md names; `pip install -e '.[golden]'`
brings torch and what else they import. A case is an entry of testdata/golden/index.json and a
function here that runs the release's own code on the case's stored inputs and weights.
"""
