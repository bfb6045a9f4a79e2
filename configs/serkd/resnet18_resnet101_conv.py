# Table II: tokens by strided convolutions, which are learned on the student's side.
_base_ = './resnet18_resnet101.py'
tokenizer = dict(_delete_=True, type='ConvTokenizer', grid=14)
model = dict(views=dict(tokens=dict(tokenizer=tokenizer), superpixels=dict(tokenizer=tokenizer)))
