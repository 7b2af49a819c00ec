/** Questions to begin with: `{label, question, media, kind, schema, tools, toolChoice}`. Without `media` those of the form remain. */

const DIGIT = { type: "integer", minimum: 0, maximum: 9 };
const FORM = {
  type: "object",
  properties: {
    digits: { type: "array", items: DIGIT, minItems: 1, maxItems: 6 },
    count: DIGIT,
    first: DIGIT,
    last: DIGIT,
  },
  required: ["digits", "count", "first", "last"],
  additionalProperties: false,
};

const TOOL = {
  type: "function",
  function: {
    name: "save_reading",
    description: "Save the digits of a picture.",
    parameters: {
      type: "object",
      properties: { digits: { type: "array", items: DIGIT, minItems: 1, maxItems: 6 } },
      required: ["digits"],
      additionalProperties: false,
    },
  },
};

export const EXAMPLES = [
  { label: "Read digits", question: "Which digits are in the picture?", media: ["digits.png"] },
  { label: "Calculate", question: "Add the first and the last digit. Think step by step.", media: ["sum.png"] },
  {
    label: "Several images",
    question: "Read the digits of each image.",
    media: ["several-1.png", "several-2.png", "several-3.png"],
  },
  { label: "Watch a clip", question: "Which digits does the video show, in order?", media: ["clip.webm"], kind: "video" },
  { label: "Fill in a form", question: "Which digits are in the picture?", media: ["digits.png"], schema: FORM },
  {
    label: "Call a tool",
    question: "Which digits are in the picture?",
    media: ["digits.png"],
    tools: [TOOL],
    toolChoice: "save_reading",
  },
  { label: "Describe my image", question: "Describe the image." },
];
