/** The one place that names Vue's version. */
export * from "./vendor/vue-3.5.45.runtime.esm-browser.prod.js";
