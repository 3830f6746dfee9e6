// Checks report pages in Chromium. tests/report.rs runs it: node report.mjs MODULES CHROMIUM KIND FILE [FOLDER FOR SCREENSHOTS]
// MODULES is a folder in which playwright-core can be found. It ends with 0 and prints "ok", or says what is wrong.
import { createRequire } from "node:module";
import { strict as assert } from "node:assert";
import { pathToFileURL } from "node:url";
import { join } from "node:path";

const [modules, executablePath, kind, file, shots] = process.argv.slice(2);
const { chromium } = createRequire(join(modules, "x.js"))("playwright-core");
const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath, args });
const address = pathToFileURL(file).href;
const problems = [];

async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1100, height: 900 }, ...options });
  const page = await context.newPage();
  page.on("console", message => problems.push(`console ${message.type()}: ${message.text()}`));
  page.on("pageerror", error => problems.push(`error: ${error.message}`));
  page.on("dialog", dialog => { problems.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.on("request", request => { if (request.url() !== address) problems.push(`request: ${request.url().slice(0, 200)}`); });
  await page.goto(address);
  if (options.javaScriptEnabled !== false) await page.waitForSelector("html[data-ready]", { timeout: 15000 });
  return page;
}
const shot = (page, name) => shots ? page.screenshot({ path: join(shots, `${kind}-${name}.png`), fullPage: true }) : null;
const overflow = page => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
const column = (page, at) => page.$$eval("#table tbody tr:not([hidden])", (rows, at) => rows.map(row => row.cells[at].dataset.v).filter(Boolean).map(Number), at);
const sorted = (values, way) => values.every((value, at) => at === 0 || way * (value - values[at - 1]) >= 0);

const checks = {
  async run(page) {
    // The ranking sorts by its headers, both ways, by mouse and by keyboard.
    const price = page.locator("#table thead th").nth(3);
    await price.locator("button").click();
    assert.equal(await price.getAttribute("aria-sort"), "ascending");
    let values = await column(page, 3);
    assert.ok(values.length > 3 && sorted(values, 1), `prices ${values}`);
    await price.locator("button").press("Enter");
    assert.equal(await price.getAttribute("aria-sort"), "descending");
    values = await column(page, 3);
    assert.ok(sorted(values, -1), `prices ${values}`);
    assert.equal(await page.locator("#table [aria-sort]").count(), 1);
    await page.locator("#table thead th").first().locator("button").click();
    // It finds by words and by standing.
    const all = await page.locator("#table tbody tr:visible").count();
    await page.fill("#find", "mock-small n=1");
    const some = await page.locator("#table tbody tr:visible").count();
    assert.ok(some > 0 && some < all, `${some} of ${all}`);
    for (const text of await page.locator("#table tbody tr:visible .config").allTextContents()) assert.match(text, /mock-small/);
    assert.match(await page.locator("#found").textContent(), new RegExp(`^${some} configuration`));
    await page.fill("#find", "");
    await page.selectOption("#standing", "pareto");
    assert.ok(await page.locator("#table tbody tr:visible").count() < all);
    await page.selectOption("#standing", "");
    // A configuration, closed by Escape, the focus where it was.
    await page.locator("[data-look]").first().focus();
    await page.keyboard.press("Enter");
    assert.ok(await page.locator("dialog[open]").isVisible());
    assert.match(await page.locator("#dialog-body pre").first().textContent(), /"model"/);
    await page.keyboard.press("Escape");
    assert.equal(await page.locator("dialog[open]").count(), 0);
    assert.ok(await page.evaluate(() => document.activeElement.hasAttribute("data-look")));
    // The matrix by keyboard, down to prompt, responses and scores.
    await page.locator("#matrix").focus();
    await page.keyboard.press("ArrowRight");
    await page.keyboard.press("ArrowDown");
    assert.match(await page.locator("#matrix-status").textContent(), /^#2 .+ on .+: /);
    await page.keyboard.press("ArrowUp");
    await page.keyboard.press("Enter");
    await page.waitForSelector("dialog[open] h3:has-text('Responses')");
    const body = await page.locator("#dialog-body").textContent();
    for (const wanted of ["Prompt", "response", "price in production", "tokens", "result"]) assert.ok(body.includes(wanted), wanted);
    assert.ok((await page.locator("#dialog-body pre").allTextContents()).every(text => text.length > 0));
    await page.locator("#close").click();
    // By mouse too, and with the hardest first.
    await page.selectOption("#order", "hard");
    await page.locator("#matrix").click({ position: { x: 158, y: 27 } });
    await page.waitForSelector("dialog[open]");
    await page.keyboard.press("Escape");
    // Where two differ.
    const counts = await page.locator("#counts button").allTextContents();
    assert.ok(counts.length >= 4 && counts[0].startsWith("only A right: "), `${counts}`);
    const both = counts.slice(0, 4).map(text => Number(text.split(": ")[1])).reduce((a, b) => a + b);
    assert.ok(both > 0);
    const at = counts.findIndex(text => !text.endsWith(": 0"));
    await page.locator("#counts button").nth(at).click();
    await page.locator("#pairs p button").first().click();
    await page.waitForSelector("#side .sides");
    assert.equal(await page.locator("#side .sides > div").count(), 2);
    assert.ok(await page.locator("#side ins, #side del").count() > 0, "nothing is marked as changed");
    // Settings to copy.
    await page.locator("#use summary").nth(2).click();
    const curl = await page.locator("#form-3").textContent();
    assert.ok(curl.startsWith("curl ") && curl.includes("$OPENAI_API_KEY"));
    await page.locator("[data-copy=form-3]").click();
    await page.waitForSelector("[data-copy=form-3]:has-text('Copied')");
    // Both themes.
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await ground();
    await shot(page, "light");
    await page.locator("#theme").click();
    assert.notEqual(await ground(), light);
    await shot(page, "dark");
    await page.locator("#theme").click();
    assert.equal(await ground(), light);
    const dark = await open({ colorScheme: "dark" });
    assert.notEqual(await dark.evaluate(() => getComputedStyle(document.body).backgroundColor), light);
    // A phone: nothing sticks out, the matrix is there.
    const phone = await open({ viewport: { width: 390, height: 800 } });
    assert.ok(await overflow(phone) <= 0, `${await overflow(phone)} pixels stick out`);
    assert.ok(await phone.locator("#matrix-canvas").isVisible());
    await shot(phone, "phone");
    // Paper: no buttons, every row.
    await page.emulateMedia({ media: "print" });
    assert.equal(await page.locator("button:visible:not(thead button)").count(), 0);
    assert.ok(await page.locator("#ranking").isVisible() && !await page.locator("nav").isVisible());
    await page.emulateMedia({ media: "screen" });
    // Without the script the answer and the ranking are there still.
    const still = await open({ javaScriptEnabled: false });
    assert.ok(await still.locator("#answer-h").isVisible() && await still.locator("#table tbody tr").first().isVisible());
    assert.equal(await still.locator("button:visible").count(), 0);
  },
  async hostile(page) {
    await page.locator("#matrix").focus();
    await page.keyboard.press("Enter");
    await page.waitForSelector("dialog[open] h3:has-text('Responses')");
    const rows = await page.evaluate(() => JSON.parse(document.getElementById("document").textContent).matrix.instances);
    await page.keyboard.press("Escape");
    let seen = "", controls = 0, long = 0;
    for (let instance = 0; instance < rows; instance++) {
      await page.locator("#matrix").focus();
      await page.keyboard.press("Home");
      for (let step = 0; step < instance; step++) await page.keyboard.press("ArrowRight");
      await page.keyboard.press("Enter");
      await page.waitForSelector("dialog[open] h3:has-text('Responses')");
      seen += (await page.locator("#dialog-body pre").allTextContents()).join("\n");
      controls += await page.locator("#dialog-body .control").count();
      const all = page.locator("#dialog-body button:has-text('Show all')");
      if (await all.count()) {
        const before = await page.locator("#dialog-body").evaluate(node => node.textContent.length);
        await all.first().click();
        assert.ok(await page.locator("#dialog-body").evaluate(node => node.textContent.length) > before + 10000);
        long++;
      }
      await page.keyboard.press("Escape");
    }
    for (const wanted of ["</script><script>", "<img src=x onerror=", "\"quoted\" 'and' `ticked`", "{{ 7 * 7 }}", "<!--", "\u2400", "U+202E", "U+2028"]) assert.ok(seen.includes(wanted), wanted);
    assert.ok(controls > 5, `${controls} characters made visible`);
    assert.ok(long > 0, "no text was cut");
    const counts = await page.locator("#counts button").count();
    for (let at = 0; at < counts; at++) {
      await page.locator("#counts button").nth(at).click();
      for (const button of await page.locator("#pairs p button.quiet").all()) {
        await button.click();
        await page.waitForSelector("#side .sides");
      }
    }
    assert.equal(await page.evaluate(() => globalThis.hacked), undefined);
    assert.equal(await page.locator("main img, main iframe, dialog img, main script").count(), 0);
    const phone = await open({ viewport: { width: 390, height: 800 } });
    assert.ok(await overflow(phone) <= 0, `${await overflow(phone)} pixels stick out`);
    await shot(phone, "phone");
  },
  async several(page) {
    const header = page.locator("#runs table thead th").nth(1);
    await header.locator("button").click();
    assert.ok(await header.getAttribute("aria-sort"));
    assert.ok(await page.locator("#shared tbody tr").count() > 0);
    const phone = await open({ viewport: { width: 390, height: 800 } });
    assert.ok(await overflow(phone) <= 0, `${await overflow(phone)} pixels stick out`);
    await shot(page, "wide");
    await shot(phone, "phone");
  },
};

// What holds for every page: names for what can be operated, scopes for headers, words for pictures.
async function accessible(page) {
  const nameless = await page.$$eval("button, select, input, a, [role=img], [role=region], [role=application]", nodes => nodes
    .filter(node => !(node.textContent.trim() || node.getAttribute("aria-label") || node.getAttribute("aria-labelledby") || node.labels?.[0]?.textContent.trim()))
    .map(node => node.outerHTML.slice(0, 120)));
  assert.deepEqual(nameless, []);
  assert.equal(await page.locator("th:not([scope])").count(), 0);
  assert.equal(await page.locator("table:not(:has(caption))").count(), 0);
  assert.equal(await page.locator("h1").count(), 1);
  assert.equal(await page.locator("main, header, footer, nav").count(), 4);
  const ids = await page.$$eval("[id]", nodes => nodes.map(node => node.id));
  assert.equal(new Set(ids).size, ids.length, "an id stands twice");
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
}

try {
  const page = await open();
  await accessible(page);
  await checks[kind](page);
  assert.deepEqual(problems, []);
  // The policy stops what gets in all the same.
  const page2 = await (await browser.newContext()).newPage();
  await page2.goto(address);
  await page2.evaluate(() => { const script = document.createElement("script"); script.textContent = "globalThis.hacked = 1"; document.body.append(script); });
  assert.equal(await page2.evaluate(() => globalThis.hacked), undefined, "the policy let a foreign script run");
  console.log("ok");
} catch (error) {
  console.log(String(error.stack ?? error), problems);
  process.exitCode = 1;
} finally {
  await browser.close();
}
