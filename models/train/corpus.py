"""The text that `mite` learns from: arithmetic and little word problems, all of it made up here from a seed.

    python3 models/train/corpus.py 20        # shows 20 documents

A document is an optional instruction, one to five problems in one form, and their answers in one style. Which style
follows which wording is a matter of chance with set odds (FORMS and INSTRUCTIONS below): that is what makes the
wording of a prompt worth tuning. The styles differ in how much calculation they leave to one step:

    direct   the number at once
    brief    every operation, none of its digits
    steps    every operation digit by digit, with carries and borrows
    verbose  as brief, in many words
    check    as brief, and then another calculation whose result is not the answer
"""

import random
import sys

NAMES = [("Ann", "she"), ("Ben", "he"), ("Eva", "she"), ("Hugo", "he"), ("Ida", "she"), ("Leo", "he"), ("Mia", "she"),
         ("Nils", "he"), ("Rosa", "she"), ("Tom", "he"), ("Vera", "she"), ("Walt", "he")]
THINGS = ["apples", "beads", "books", "cards", "coins", "marbles", "pencils", "shells", "stamps", "stickers"]
WARES = ["pen", "cake", "lamp", "toy", "ticket", "ball"]
BAGS = ["bags", "boxes", "packs"]
END = "<|end|>"


# Problems. Each returns (text, [operation, ...]) where an operation is (a, sign, b, result) and the last result answers.

def number(r, low=10, high=399):
    """Two digits as often as three."""
    return r.randint(low, 99) if r.random() < 0.5 else r.randint(low, high)


def add(a, b):
    return (a, "+", b, a + b)


def sub(a, b):
    return (a, "-", b, a - b)


def mul(a, b):
    return (a, "*", b, a * b)


def div(a, b):
    return (a, "/", b, a // b)


def sum_(r):
    a, b = number(r), number(r)
    return r.choice(["What is {} + {}?", "{} + {}", "Add {} and {}."]).format(a, b), [add(a, b)]


def difference(r):
    a, b = sorted([number(r, 10, 499), number(r)], reverse=True)
    return r.choice(["What is {} - {}?", "{} - {}", "{} minus {}"]).format(a, b), [sub(a, b)]


def product(r):
    a, b = r.randint(2, 9), r.randint(3, 99)
    return r.choice(["What is {} * {}?", "{} * {}", "{} times {}"]).format(a, b), [mul(a, b)]


def find(r):
    (name, who), thing, a, b = r.choice(NAMES), r.choice(THINGS), number(r), number(r)
    text = r.choice([f"{name} has {a} {thing} and finds {b} more. How many {thing} has {who} now?",
                     f"{name} had {a} {thing} and got {b} more. How many {thing} has {who}?"])
    return text, [add(a, b)]


def give(r):
    (name, who), thing = r.choice(NAMES), r.choice(THINGS)
    a, b = sorted([number(r, 10, 499), number(r)], reverse=True)
    text = r.choice([f"{name} has {a} {thing} and gives {b} away. How many {thing} are left?",
                     f"{name} had {a} {thing} and lost {b}. How many {thing} has {who} now?"])
    return text, [sub(a, b)]


def packs(r):
    (name, who), thing, bags = r.choice(NAMES), r.choice(THINGS), r.choice(BAGS)
    a, b, c = number(r, 10, 299), r.randint(2, 9), r.randint(3, 40)
    text = r.choice([f"{name} has {a} {thing} and buys {b} {bags} of {c}. How many {thing} has {who} now?",
                     f"{name} had {a} {thing} and got {b} {bags} of {c}. How many {thing} has {who}?"])
    return text, [mul(b, c), add(a, b * c)]


def change(r):
    (name, who), ware, price, count = r.choice(NAMES), r.choice(WARES), r.randint(3, 40), r.randint(2, 9)
    paid = (price * count // 10 + r.randint(1, 9)) * 10
    text = r.choice([f"A {ware} costs {price} dollars. {name} buys {count} and pays with {paid} dollars. How many dollars does {who} get back?",
                     f"{name} buys {count} {ware}s for {price} dollars each and pays with {paid}. How many dollars does {who} get back?"])
    return text, [mul(count, price), sub(paid, count * price)]


def share(r):
    (name, _), thing, friends, each = r.choice(NAMES), r.choice(THINGS), r.randint(2, 9), r.randint(4, 50)
    total = friends * each
    b = r.randint(2, total - 2)
    a = total - b
    text = r.choice([f"{name} has {a} {thing}, finds {b} more and shares them among {friends} friends. How many {thing} does each friend get?",
                     f"{name} had {a} {thing} and got {b} more. {friends} friends share them. How many {thing} does each friend get?"])
    return text, [add(a, b), div(total, friends)]


def together(r):
    (one, _), (two, _) = r.sample(NAMES, 2)
    thing, a = r.choice(THINGS), number(r, 20, 299)
    if r.random() < 0.5:
        b = number(r, 3, 199)
        return (f"{one} has {a} {thing}. {two} has {b} more than {one}. How many {thing} have they together?",
                [add(a, b), add(a, a + b)])
    b = r.randint(3, a - 5)
    return (f"{one} has {a} {thing}. {two} has {b} fewer than {one}. How many {thing} have they together?",
            [sub(a, b), add(a, a - b)])


def trade(r):
    (name, who), thing, bags = r.choice(NAMES), r.choice(THINGS), r.choice(BAGS)
    a, b, c = number(r, 10, 299), r.randint(2, 9), r.randint(3, 40)
    d = r.randint(3, min(a + b * c - 2, 299))
    text = r.choice([f"{name} has {a} {thing}, buys {b} {bags} of {c} and gives {d} away. How many {thing} has {who} now?",
                     f"{name} had {a} {thing}, got {b} {bags} of {c} and lost {d}. How many {thing} has {who}?"])
    return text, [mul(b, c), add(a, b * c), sub(a + b * c, d)]


def mixed(r):
    (name, who), thing, (one, two) = r.choice(NAMES), r.choice(THINGS), r.sample(BAGS, 2)
    a, b, c, d = r.randint(2, 9), r.randint(3, 40), r.randint(2, 9), r.randint(3, 40)
    text = r.choice([f"{name} buys {a} {one} of {b} {thing} and {c} {two} of {d}. How many {thing} has {who} now?",
                     f"{name} has {a} {one} of {b} {thing} and finds {c} {two} of {d}. How many {thing} has {who}?"])
    return text, [mul(a, b), mul(c, d), add(a * b, c * d)]


KINDS = {"sum": sum_, "difference": difference, "product": product, "find": find, "give": give, "packs": packs,
         "change": change, "share": share, "together": together, "trade": trade, "mixed": mixed}


# Answers.

def digits(a, sign, b):
    """One operation digit by digit, as on paper: units first, carries and borrows written out."""
    said, c = [], 0
    if sign in "+-":
        for i in range(max(len(str(a)), len(str(b)))):
            x, y = a // 10**i % 10, b // 10**i % 10
            carry = f"{sign}1" if c else ""
            if sign == "+":
                z = x + y + c
                c = z // 10
            else:
                z = x - y - c
                c = 1 if z < 0 else 0
                x, z = x + 10 * c, z + 10 * c
            said.append(f"{x}{sign}{y}{carry}={z}")
    elif sign == "*":
        for i in range(len(str(b))):
            y = b // 10**i % 10
            carry = f"+{c}" if c else ""
            z = a * y + c
            c = z // 10
            said.append(f"{a}*{y}{carry}={z}")
    else:
        rest = 0
        for i in reversed(range(len(str(a)))):
            x = 10 * rest + a // 10**i % 10
            rest = x % b
            if x >= b or said:
                said.append(f"{x}/{b}={x // b}" + (f" r{rest}" if rest else ""))
    return " ".join(said)


def direct(r, steps):
    return str(steps[-1][3])


def brief(r, steps):
    return ", ".join(f"{a}{s}{b}={z}" for a, s, b, z in steps)


def worked(r, steps, between=" "):
    said = between.join(f"{a}{s}{b}: {digits(a, s, b)} -> {z}." for a, s, b, z in steps)
    return f"{said}{between}The answer is {steps[-1][3]}"


def lines(r, steps):
    return worked(r, steps, "\n")


def verbose(r, steps):
    verbs = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide"}
    said = []
    for i, (a, s, b, z) in enumerate(steps):
        start = "First we read the problem with care and" if i == 0 else "Then we take the next number and"
        said.append(f"{start} {verbs[s]}, and so we get that {a} {s} {b} is {z}.")
    return " ".join(said) + f" So now we know that the answer is {steps[-1][3]}"


def check(r, steps):
    a, s, b, z = steps[-1]
    back = {"+": f"{z}-{b}={a}", "-": f"{z}+{b}={a}", "*": f"{z}/{a}={b}", "/": f"{z}*{b}={a}"}[s]
    return f"{brief(r, steps)}. Check: {back}"


STYLES = {"direct": direct, "brief": brief, "steps": worked, "lines": lines, "verbose": verbose, "check": check}

# (share, before the problem, after it, odds of the styles)
FORMS = [
    (10, "Q: ", "\nA:", {"direct": 0.9, "brief": 0.1}),
    (6, "Question: ", "\nAnswer:", {"direct": 0.7, "brief": 0.3}),
    (8, "Problem: ", "\nAnswer:", {"direct": 0.55, "brief": 0.25, "steps": 0.2}),
    (8, "Problem: ", "\nSolution:", {"brief": 0.55, "steps": 0.35, "verbose": 0.1}),
    (8, "", "\n", {"direct": 0.45, "brief": 0.3, "steps": 0.15, "verbose": 0.1}),
    (5, "Problem: ", "\n", {"direct": 0.4, "brief": 0.35, "steps": 0.25}),
    (10, "Solve: ", "\n", {"steps": 0.55, "direct": 0.45}),
    (8, "Problem: ", "\nLet's think step by step.", {"steps": 0.7, "verbose": 0.3}),
    (4, "Q: ", "\nA: Let's think step by step.", {"steps": 0.7, "verbose": 0.3}),
    (8, "Problem: ", "\nWork:", {"brief": 0.8, "steps": 0.2}),
    (6, "", " =", {"direct": 1.0}),  # only where the problem is a bare expression
]
# (share, the instruction, odds of the styles)
INSTRUCTIONS = [
    (10, "Answer with the number only.", {"direct": 0.97, "brief": 0.03}),
    (6, "Be brief.", {"brief": 0.75, "direct": 0.25}),
    (7, "Show your work.", {"brief": 0.6, "steps": 0.4}),
    (8, "Think step by step.", {"verbose": 0.55, "steps": 0.45}),
    (10, "Work digit by digit.", {"lines": 0.95, "brief": 0.05}),
    (5, "You are a careful teacher. Explain every step in detail.", {"verbose": 0.95, "steps": 0.05}),
    (5, "Check the result.", {"check": 0.9, "brief": 0.1}),
    (5, "Solve the problem as in the examples.", None),  # the form decides; always with examples
]
BODIES = [(5, "Problem: ", "\n"), (2, "Q: ", "\n"), (2, "", "\n"), (3, "Problem: ", "\nAnswer:"), (1, "Q: ", "\nA:")]


def weighted(r, table):
    return r.choices(table, [row[0] for row in table])[0]


def style_of(r, odds):
    return r.choices(list(odds), list(odds.values()))[0]


def drill(r):
    """Bare equations: much calculation in little text."""
    made, kind = [], r.random()
    for _ in range(r.randint(4, 9)):
        steps = r.choice(list(KINDS.values()))(r)[1]
        for a, s, b, z in steps:
            if kind < 0.85:
                made.append([(f"{a}{s}{b}=", 0.2), (str(z), 1.0)])
            else:
                made.append([(f"{a}{s}{b}:", 0.2), (f" {digits(a, s, b)} -> {z}.", 1.0)])
    mark = r.choice(["\n", "\n", ", ", " "])
    return [part for equation in made for part in (*equation, (mark, 1.0))][:-1]


def document(r, long=False):
    """A document as [(text, weight in the loss), ...]: what cannot be foreseen, the problem, weighs little."""
    if r.random() < 0.25:
        return drill(r)
    instruction, odds = "", None
    examples = r.random() < 0.35
    count = r.randint(2, 5 if long else 3) if examples else 1
    if r.random() < 0.45:
        _, instruction, odds = weighted(r, INSTRUCTIONS)
    if odds:
        _, before, after = weighted(r, BODIES)
        if "A" in after and r.random() < 0.5:  # an answer is asked for at once: half of the time it is given at once
            odds = {"direct": 1.0}
    else:
        _, before, after, odds = weighted(r, FORMS)
    if instruction.endswith("examples."):
        count = max(count, 2)
    style = style_of(r, odds)
    if examples and r.random() < 0.3:  # examples may have any style, whatever the words say
        style = r.choice(["direct", "brief", "steps", "steps", "lines", "verbose"])
    parts = [(instruction + "\n", 0.2)] if instruction else []
    kinds = list(KINDS.values())[:3] if after == " =" else list(KINDS.values())
    for i in range(count):
        while True:
            problem, steps = r.choice(kinds)(r)
            if after != " =" or problem[-1].isdigit() and problem.count(" ") == 2 and problem.split()[1] in "+-*":
                break
        parts.append((before + problem + after, 0.2))
        answer = STYLES[style](r, steps)
        parts.append((answer if after.endswith("\n") else " " + answer, 1.0))
        if i + 1 < count:
            parts.append(("\n\n", 1.0))
    return parts


def stream(seed, long=False):
    """Documents without end. Most run on into the next one; a few say that they are over."""
    r = random.Random(seed)
    while True:
        yield document(r, long) + [(END, 1.0) if r.random() < 0.12 else ("\n\n", 1.0)]


def main():
    made = stream(1, long=True)
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 20):
        print("".join(text for text, _ in next(made)), end="")


if __name__ == "__main__":
    main()
