// The explorer in a real browser: `cargo xtask explore-check` runs this with node and playwright-core.
// Arguments: the address, the folder for screenshots, the browser, an image file to drop or an empty text.
import { createRequire } from "node:module";
import path from "node:path";

const [link, folder, browserPath, image] = process.argv.slice(2);
const require = createRequire(path.join(process.cwd(), "package.json"));
const { chromium } = require("playwright-core");

const fail = (problem) => { throw new Error(problem); };
const host = new URL(link).host;
const browser = await chromium.launch({ executablePath: browserPath, args: ["--no-sandbox", "--disable-gpu"] });
const views = [
  ["wide-light", { width: 1280, height: 900 }, "light"],
  ["wide-dark", { width: 1280, height: 900 }, "dark"],
  ["narrow-light", { width: 390, height: 844 }, "light"],
];
try {
  for (const [name, viewport, colorScheme] of views) {
    const context = await browser.newContext({ viewport, colorScheme });
    const page = await context.newPage();
    const said = [];
    page.on("console", (message) => said.push(message.text()));
    page.on("pageerror", (error) => said.push("" + error));
    page.on("request", (request) => {
      const url = new URL(request.url());
      if (["http:", "https:", "ws:"].includes(url.protocol) && url.host !== host) said.push("asks " + url.host);
    });
    await page.goto(link);
    await page.waitForSelector("body[data-ready=yes]", { timeout: 120000 });

    const pixels = () => page.evaluate(async () => {
      const picture = document.querySelector("#decoded img");
      // Another picture may take its place meanwhile.
      for (let i = 0; i < 20; i++) {
        try { await picture.decode(); break; } catch { await new Promise((done) => setTimeout(done, 20)); }
      }
      const canvas = document.createElement("canvas");
      canvas.width = picture.naturalWidth;
      canvas.height = picture.naturalHeight;
      const context = canvas.getContext("2d");
      context.drawImage(picture, 0, 0);
      return [...context.getImageData(0, 0, canvas.width, canvas.height).data].join();
    });
    const changed = async (before, what) => {
      for (let i = 0; i < 100; i++) {
        const now = await pixels();
        if (now !== before) return now;
        await page.waitForTimeout(50);
      }
      fail(what + " changed nothing");
    };
    const move = (id, value) => page.evaluate(([id, value]) => {
      const slider = document.getElementById(id);
      slider.value = value;
      slider.dispatchEvent(new Event("input"));
    }, [id, value]);

    let now = await pixels();
    const sliders = await page.$$eval("#sliders input", (inputs) => inputs.map((input) => input.id));
    if (!sliders.length) fail("there are no sliders");
    await move(sliders[0], 3);
    now = await changed(now, "the slider " + sliders[0]);
    const took = [];
    for (let i = 0; i < 40; i++) {
      await move(sliders[0], 3 - 0.15 * i);
      await page.waitForTimeout(60);
      took.push(+(await page.evaluate(() => document.body.dataset.milliseconds)));
    }
    took.sort((a, b) => a - b);
    console.log(`${name}: a moved slider is answered in ${took[20].toFixed(1)} ms (median of 40), ${took[37].toFixed(1)} ms (95 %)`);
    await page.keyboard.press("Escape");
    await page.click("#reset");
    now = await pixels();

    const map = await page.$("#map");
    const box = await map.boundingBox();
    await map.click({ position: { x: 0.3 * box.width, y: 0.4 * box.height } });
    now = await changed(now, "a click on the map");
    await page.click("#set-a");
    await map.click({ position: { x: 0.7 * box.width, y: 0.6 * box.height } });
    now = await changed(now, "another click on the map");
    await page.click("#set-b");
    await page.click("#play");
    now = await changed(now, "the way from A to B");
    await page.click("#play");
    await page.mouse.move(box.x + 0.5 * box.width, box.y + 0.5 * box.height);
    await page.mouse.down();
    await page.mouse.move(box.x + 0.55 * box.width, box.y + 0.3 * box.height, { steps: 8 });
    await page.mouse.up();
    now = await changed(now, "dragging over the map");
    if (image && await page.isEnabled("#file")) {
      await page.setInputFiles("#file", image);
      await page.waitForSelector("#neighbors button");
      now = await changed(now, "the dropped image");
    }
    await page.screenshot({ path: path.join(folder, `${name}.png`), fullPage: true });
    await page.click("#tab-live");
    await page.waitForSelector("#curve svg");
    await page.waitForTimeout(500);
    await page.screenshot({ path: path.join(folder, `${name}-training.png`), fullPage: true });
    if (said.length) fail(name + ": " + said.join("; "));
    await context.close();
  }
} finally {
  await browser.close();
}
