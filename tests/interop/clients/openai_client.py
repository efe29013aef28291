"""openai: python openai_client.py URL PICTURE SOUND"""

import base64
import sys

import openai

client = openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", max_retries=0)
picture, sound = (base64.b64encode(open(name, "rb").read()).decode() for name in sys.argv[2:4])
(model,) = client.models.list().data
made = client.embeddings.create(model=model.id, input=["knocking", "smoke"])
dimensions = len(made.data[1].embedding)
content = [
    {"type": "text", "text": "what is it?"},
    {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{picture}"}},
    {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
]
messages = [{"role": "user", "content": content}]
whole = client.chat.completions.create(model=model.id, messages=messages)
chunks = client.chat.completions.create(model=model.id, messages=messages, stream=True)
pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
assert "".join(pieces) == whole.choices[0].message.content, pieces
try:
    client.chat.completions.create(model=model.id, messages=messages, temperature=0.7)
except openai.BadRequestError as error:
    assert error.param == "temperature"
else:
    raise SystemExit("a temperature was not refused")
print(f"{model.id}: 2 embeddings of {dimensions}; {len(pieces)} chunks, the text of the whole")
