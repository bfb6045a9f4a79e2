"""Architectures of timm that the sweep of zoo.py tests: the smallest of each family, and what people distill from."""

# fmt: off
# Weights are random, so a name stands for all tags of its architecture, unless the tag changes the model.
TEACHERS = [
    'beit_base_patch16_224', 'beitv2_base_patch16_224', 'halonet_h1', 'eca_botnext26ts_256', 'mobileone_s0',
    'repvgg_a0', 'gernet_s', 'mobilevit_xxs', 'mobilevitv2_050', 'cait_xxs24_224', 'coat_tiny', 'coat_lite_tiny',
    'convit_tiny', 'convmixer_768_32', 'convnext_atto', 'convnextv2_atto', 'convnext_tiny.dinov3_lvd1689m',
    'cpubone_nano', 'crossvit_tiny_240', 'csatv2', 'cs3darknet_s', 'cspnext_tiny', 'davit_tiny',
    'deit_tiny_distilled_patch16_224', 'deit3_small_patch16_224', 'densenet121', 'dla46x_c', 'dpn48b',
    'edgenext_xx_small', 'efficientformer_l1', 'efficientformerv2_s0', 'mnasnet_small', 'efficientnet_b0',
    'tf_efficientnetv2_b0', 'tf_efficientnet_lite0', 'mixnet_s', 'tinynet_e', 'efficientvim_m1', 'efficientvit_b0',
    'efficientvit_m0', 'eva02_tiny_patch14_224', 'eva02_tiny_patch14_336', 'fasternet_t0', 'fastvit_t8',
    'focalnet_tiny_srf', 'gcvit_xxtiny', 'ghostnet_050', 'hardcorenas_b', 'hgnetv2_b0', 'hiera_tiny_224',
    'sam2_hiera_tiny', 'hrnet_w18_small', 'iformer_t', 'inception_next_atto', 'inception_v3', 'inception_v4',
    'lcnetv2_small', 'levit_128s', 'levit_conv_128s', 'lowformer_b0', 'mambaout_femto', 'coatnet_pico_rw_224',
    'maxvit_pico_rw_256', 'poolformer_s12', 'caformer_s18', 'convformer_s18', 'mixer_s16_224', 'resmlp_12_224',
    'gmlp_ti16_224', 'mobilenetv3_small_050', 'mobilenetv4_conv_small_035', 'mobilenetv4_hybrid_medium',
    'fbnetv3_b', 'lcnet_050', 'mvitv2_tiny', 'naflexvit_base_patch16_gap', 'nest_tiny', 'nextvit_small',
    'nf_regnet_b0', 'dm_nfnet_f0', 'pit_ti_224', 'pit_ti_distilled_224', 'pvt_v2_b0', 'rdnet_tiny', 'regnetx_002',
    'regnety_002', 'repghostnet_050', 'repvit_m1', 'res2net50_26w_4s', 'resnest14d', 'resnet18',
    'resnet50_clip_gap', 'seresnet50', 'wide_resnet50_2', 'resnetv2_18', 'rexnet_100', 'selecsls42b',
    'legacy_seresnet18', 'sequencer2d_s', 'shvit_s1', 'skresnet18', 'starnet_s1', 'swiftformer_xs',
    'swin_tiny_patch4_window7_224', 'swinv2_tiny_window8_256', 'swinv2_cr_tiny_ns_224', 'tiny_vit_5m_224',
    'tnt_s_legacy_patch16_224', 'tresnet_m', 'twins_pcpvt_small', 'twins_svt_small', 'vgg11', 'visformer_tiny',
    'vit_tiny_patch16_224', 'vit_small_patch14_dinov2', 'vit_small_patch14_reg4_dinov2',
    'vit_base_patch16_siglip_224', 'vit_base_patch32_clip_224', 'vit_wee_patch16_reg1_gap_256', 'flexivit_small',
    'vit_small_patch16_dinov3', 'vit_tiny_r_s16_p8_224', 'vit_relpos_small_patch16_224', 'samvit_base_patch16_224',
    'vitamin_small_224', 'volo_d1_224', 'ese_vovnet19b_slim', 'xception41', 'xcit_nano_12_p16_224',
]

STUDENTS = [
    'vit_tiny_patch16_224', 'deit_tiny_distilled_patch16_224', 'vit_wee_patch16_reg1_gap_256',
    'vit_small_patch16_dinov3', 'resnet18', 'resnet10t', 'convnext_atto', 'convnextv2_atto',
    'mobilenetv3_small_050', 'mobilenetv4_conv_small', 'mobilenetv4_hybrid_medium', 'efficientnet_b0',
    'tf_efficientnet_lite0', 'efficientformer_l1', 'efficientvit_b0', 'repvit_m1', 'fastvit_t8', 'mobileone_s0',
    'edgenext_xx_small', 'swin_tiny_patch4_window7_224', 'pvt_v2_b0', 'regnety_002', 'ghostnet_100',
    'mobilevitv2_050', 'tiny_vit_5m_224', 'mixer_s16_224',
]
